# Installation: libraries, headers, and what consumers' builds look for. The
# templates in this folder are filled in by CMake and by Meson alike.

# The way from `folder` (below the prefix) back to the prefix, so that what is
# installed can be moved; from an absolute folder there is none.
function(lora_path_to_prefix out folder)
    set(path ${CMAKE_INSTALL_PREFIX})
    if(NOT IS_ABSOLUTE ${CMAKE_INSTALL_LIBDIR})
        file(RELATIVE_PATH path ${CMAKE_INSTALL_PREFIX}/${folder}
             ${CMAKE_INSTALL_PREFIX})
        string(REGEX REPLACE "/$" "" path "${path}")
    endif()
    set(${out} ${path} PARENT_SCOPE)
endfunction()

set(targets ${lora_main})
if(LORA_BUILD_STATIC AND LORA_BUILD_SHARED)
    list(APPEND targets lora_static)
endif()
if(lora_have_openblas)
    list(APPEND targets lora_openblas)
endif()
install(TARGETS ${targets}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
set(headers)
if(NOT lora_have_openblas)
    set(headers PATTERN openblas.h EXCLUDE)
endif()
install(DIRECTORY include/lora DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        ${headers})

set(LORA_VERSION ${PROJECT_VERSION})
set(LORA_SOVERSION ${lora_soversion})
set(LORA_THREADS_FLAG)
if(LORA_THREADS)
    set(LORA_THREADS_FLAG -pthread)
endif()
set(LORA_REQUIRES)
if(lora_have_zlib)
    set(LORA_REQUIRES zlib)
endif()

set(pc_folder ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
lora_path_to_prefix(LORA_PREFIX ${pc_folder})
if(NOT IS_ABSOLUTE ${LORA_PREFIX})
    set(LORA_PREFIX "\${pcfiledir}/${LORA_PREFIX}")
endif()
foreach(folder LIBDIR INCLUDEDIR)
    set(LORA_${folder} ${CMAKE_INSTALL_${folder}})
    if(NOT IS_ABSOLUTE ${LORA_${folder}})
        string(PREPEND LORA_${folder} "\${prefix}/")
    endif()
endforeach()
configure_file(pkgconfig/lora.pc.in pkgconfig/lora.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/pkgconfig/lora.pc
        DESTINATION ${pc_folder})
if(lora_have_openblas)
    configure_file(pkgconfig/lora-openblas.pc.in pkgconfig/lora-openblas.pc
                   @ONLY)
    install(FILES ${PROJECT_BINARY_DIR}/pkgconfig/lora-openblas.pc
            DESTINATION ${pc_folder})
endif()

set(cmake_folder ${CMAKE_INSTALL_LIBDIR}/cmake/lora)
lora_path_to_prefix(LORA_PREFIX ${cmake_folder})
if(NOT IS_ABSOLUTE ${LORA_PREFIX})
    set(LORA_PREFIX "\${CMAKE_CURRENT_LIST_DIR}/${LORA_PREFIX}")
endif()
foreach(folder LIBDIR INCLUDEDIR)
    set(LORA_${folder} ${CMAKE_INSTALL_${folder}})
    if(NOT IS_ABSOLUTE ${LORA_${folder}})
        string(PREPEND LORA_${folder} "\${lora_prefix}/")
    endif()
endforeach()
configure_file(pkgconfig/loraConfig.cmake.in
               pkgconfig/loraConfig.cmake @ONLY)
configure_file(pkgconfig/loraConfigVersion.cmake.in
               pkgconfig/loraConfigVersion.cmake @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/pkgconfig/loraConfig.cmake
              ${PROJECT_BINARY_DIR}/pkgconfig/loraConfigVersion.cmake
        DESTINATION ${cmake_folder})
